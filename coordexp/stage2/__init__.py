"""Early signals of Stage-2: what a checkpoint writes when it is let go, parsed, matched and scored."""
