"""The command `coordexp`: its verbs, and the single steps of the workflow."""
