"""Every softmax of a run, whoever wrote it: what it weighs, masks and is given to."""
