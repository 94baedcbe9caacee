"""What a watch costs: steps with it beside steps without, in one process, on three models."""
