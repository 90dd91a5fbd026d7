"""Measurements that outgrow a test; each figure in `docs/log.md` names its command."""
