"""The decision rule applied to a comparison: roles, reasons, confidence, and the card."""
