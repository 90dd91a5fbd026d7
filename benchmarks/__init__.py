"""Measurements too long for a test; each figure in `docs/log.md` names its command."""
