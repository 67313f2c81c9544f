"""What the library asks of the machine and the terminal: whole files, tables, timing, checks of outside data."""
