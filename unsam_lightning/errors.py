"""The one error that a user can cause: it says what was expected, what was found and what to do.

The command line prints it as one line and exits with code 2; every other exception is a defect of ours and keeps its
traceback.
"""


class UserError(Exception):
    """A problem with the user's input.

    Args:
        expected: What the program needed, in words.
        found: What was there instead, with its value.
        remedy: What the user can do about it.
    """

    def __init__(self, *, expected: str, found: str, remedy: str) -> None:
        # All three go to Exception so that the error survives pickling between worker processes.
        super().__init__(expected, found, remedy)
        self.expected, self.found, self.remedy = expected, found, remedy

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from keywords when a DataLoader worker or a pool sends the error to its parent."""
        return (_rebuild, (type(self), self.expected, self.found, self.remedy))

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}; {self.remedy}"


def _rebuild(kind: type[UserError], expected: str, found: str, remedy: str) -> UserError:
    return kind(expected=expected, found=found, remedy=remedy)
