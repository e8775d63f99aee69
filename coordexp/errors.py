"""UserError, the exception that is shown to the user as a single line."""


class UserError(Exception):
    """An error that only the user can fix. The message is one line: what, where, what to do."""
