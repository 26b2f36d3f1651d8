"""What can go wrong in front of people.

DashboardError    something that was asked for cannot be shown
"""

from traitwatch.errors import TraitwatchError


class DashboardError(TraitwatchError):
    """Says what was wrong and what to do, in one sentence."""
