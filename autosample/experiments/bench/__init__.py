"""Speed of converted layers and models against the fastest dense torch, measured in one process: `autosample bench`."""
