"""What is raised when events cannot be taken in."""

__all__ = ["IngestError"]


class IngestError(ValueError):
    """Input that is not loaded; ``problems`` says each thing found, with where, value, why and the way out.

    Nothing was written when this is raised.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
