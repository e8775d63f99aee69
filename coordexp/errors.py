"""The one exception that reaches a user as a single line."""


class UserError(Exception):
    """Something only the user can mend. The message is one line: what, where, what to do."""
