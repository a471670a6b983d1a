"""All rows that peers.py times."""

from typing import Any

import peers_networks
import peers_rows
import peers_steps


def every_row() -> list[Any]:
    """Return the rows of single ops, of small networks' training steps and of large networks."""
    return [*peers_rows.op_rows(), *peers_steps.step_rows(), *peers_networks.network_rows()]
