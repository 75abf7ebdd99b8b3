"""What operators refuse or regret although the schemas allow it; each module adds its rules."""

from rules import clusters, jobs, objects, pods
from rules.findings import RULES, Finding, check_rules

__all__ = ["RULES", "Finding", "check_rules", "clusters", "jobs", "objects", "pods"]
