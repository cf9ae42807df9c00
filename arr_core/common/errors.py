"""What all of the project's refusals are."""


class ArrError(Exception):
    """Something cannot be done: one line that says what was expected, what came and what to do next."""
