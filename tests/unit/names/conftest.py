from tests.unit.names.labs import lab, short_memory, standard_lab

__all__ = ["lab", "short_memory", "standard_lab"]
