"""Move a steer to another model, and see what is left of it."""

from steerlens.analysis.transfer.align import align as align
from steerlens.analysis.transfer.align import token_weights as token_weights
from steerlens.analysis.transfer.move import transfer as transfer
from steerlens.analysis.transfer.report import TransferReport as TransferReport
from steerlens.analysis.transfer.report import transfer_report as transfer_report
