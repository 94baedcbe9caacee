"""Which of the batch's entries are read: by place, by index, by unit and by order."""
