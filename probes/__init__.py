"""The ground floor: what a subject is, the four moves, the run record, findings and checks.

from probes import Subject
subject = Subject(model, batches, loss, optimizer)
"""
