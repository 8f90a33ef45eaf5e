"""What many runs say together: results read from their folders, intervals over seeds, tables and figures."""
