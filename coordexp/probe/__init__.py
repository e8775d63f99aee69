"""The Stage-2 probe of a checkpoint: rollouts, a geometric fine-tune, rollouts again."""
