"""Addresses rewritten before the queue, as Postfix's cleanup does: canonical maps, masquerading, virtual aliases,
aliases of our own names, blind copies.

Contract: sans IO; tables are asked through mail.ports.Table, so every answer may have to be awaited. What failure means
for the mail: a table that cannot answer, and a map that cannot be meant (a loop, an explosion, a value that is no
address), raise Unavailable: the mail is put off, never passed as it is and never refused.
"""

from appliance.addresses.expansion import Expansion, Owner, Refused, Step, Unreasonable
from appliance.addresses.incomplete import NOTHING, Completion
from appliance.addresses.rewriter import Rewriter
from appliance.addresses.settings import Settings

__all__ = ["NOTHING", "Completion", "Expansion", "Owner", "Refused", "Rewriter", "Settings", "Step", "Unreasonable"]
