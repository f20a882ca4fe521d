"""What the experiments make of their rows: tables, figures and pages."""
