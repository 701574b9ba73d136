"""Files: one owner for each tensor, checksums, nothing that is ever executed."""
