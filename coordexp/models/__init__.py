"""The vision-language model: base model, checkpoints, adapters, attention, processor."""
