"""What tests read in an exported graph."""

from ingest.openvino_core import ov


def has_int8_weights(node: ov.Node) -> bool:
    """Return whether the weights of an operation are converted from int8 constants."""
    weights = node.input_value(1).get_node()
    while weights.get_type_name() != "Constant":
        weights = weights.input_value(0).get_node()
    return bool(weights.get_element_type().get_type_name() == "i8")
