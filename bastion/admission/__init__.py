"""Who may begin to log in, by the source of a connection: limits, penalties, a budget of handshakes. No I/O."""

from bastion.admission.gatekeeper import Gatekeeper, Refusal
from bastion.admission.penalties import Offence
from bastion.admission.sources import source_of
from bastion.admission.startups import Startup, StartupTable

__all__ = ["Gatekeeper", "Offence", "Refusal", "Startup", "StartupTable", "source_of"]
