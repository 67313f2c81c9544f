"""autosample: layers that sample their filters from a small learned summary."""
