"""What a forward pass does, stage by stage: shapes, masks, parameters, FLOPs."""

from mmlib.tracing.trace import Trace, trace

__all__ = ["Trace", "trace"]
