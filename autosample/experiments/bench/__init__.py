"""`autosample bench`: speed of converted layers and models against the fastest dense torch, in one process."""
