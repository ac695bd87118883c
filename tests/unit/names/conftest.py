from tests.unit.names.labs import lab, standard_lab

__all__ = ["lab", "standard_lab"]
