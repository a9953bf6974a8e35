"""Parameter-update GRPO on the same problems, groups and rewards. Not built yet; see docs/status.md."""
