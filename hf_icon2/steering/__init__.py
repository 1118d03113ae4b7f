"""How directions are applied: gated hooks, `generate`, a logits processor, and both signs at once."""
