"""Which runs a study has: the plan, its preregistration, and runs that exist already."""
