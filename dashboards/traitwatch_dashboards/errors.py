"""The error of the dashboards.

TraitwatchError            see `traitwatch.errors`
└── DashboardError         a dashboard cannot show the data that was asked for, or an option of its command is wrong
"""

from traitwatch.errors import TraitwatchError


class DashboardError(TraitwatchError):
    """Says in one sentence what was wrong and what to do."""
