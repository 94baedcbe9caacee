"""What every verdict needs."""

from __future__ import annotations

from overfit.curves import Curves


def lacks_course(curves: Curves) -> str | None:
    """Why the suite's course cannot be judged; None where it ran to an end of its own."""
    if curves.ended == "died":
        return f"the suite of {curves.suite} died"
    if curves.ended is None:
        done = len(curves.steps)
        return f"the suite of {curves.suite} was cut off after {done} of {curves.budget} steps"
    if not curves.losses and curves.ended != "refused":
        return f"the suite of {curves.suite} recorded no loss"
    return None


def lacks_look(curves: Curves) -> str | None:
    """As `lacks_course`, and a look at the trained model where it did not memorise."""
    if (why := lacks_course(curves)) is not None:
        return why
    if curves.look is None and curves.ended == "steps":
        return f"the model trained on {curves.suite} could not be looked at"
    return None
