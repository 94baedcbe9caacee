"""The specimen: the multi-turn text-to-SQL model of an experiment log, and its trainer.

The instruments reach it by address only:
whynan diagnose model.subject:hierarchical
"""
