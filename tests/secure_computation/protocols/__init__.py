"""Every protocol with all three roles on one page, known answers included."""
