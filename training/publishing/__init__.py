"""From trained weights to a published version: export, measure, calibrate, decide, write."""
