"""A plan, for people and for programs."""

import json
from dataclasses import asdict

from exportkit.cli import tables
from exportkit.planning.outline import next_version
from exportkit.spec import ExportPlan


def show(plan: ExportPlan) -> None:
    """Print a plan as a table."""
    tables.show_plan(plan)


def print_json(plan: ExportPlan) -> None:
    """Print a plan as JSON."""
    assets = [{"path": str(one.path), "named_by": one.named_by, "resolved": str(one.resolved)} for one in plan.assets]
    found = {
        "name": plan.name,
        "export_dir": str(plan.export_dir),
        "version": next_version(plan),
        "checks": [asdict(check) for check in plan.checks],
        "assets": assets,
        "warnings": plan.warnings,
    }
    tables.line(json.dumps(found, indent=2))
