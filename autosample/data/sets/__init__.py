"""The data sets: one file each. The table of all of them is `autosample.data.DATASETS`."""
