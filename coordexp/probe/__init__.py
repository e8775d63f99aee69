"""The Stage-2 probe of a checkpoint: rollouts, a short geometric fine-tune, rollouts again."""
