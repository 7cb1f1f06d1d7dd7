"""The clinician's page, `data-owner ui`: served on this machine, to this machine's browser, and to nobody else.

    server         starts it: address, token, uvicorn
    security       who may speak to it: token, cookie, Host, Origin, headers
    answering      how handlers answer, and how they fail
    pages          routes of the page itself; batch, polarity, history_pages, export_pages: of what their names say
    showing        what the templates are given
    workplace      what the page knows: entries, the model, the stock, progress
    intake, reading  a file that was dropped -> an entry's pictures
    runner         the thread that computes: one session at a time
    watching       the thread that asks whether the parties can be reached
    history        what this workstation keeps of its answers
    exporting      answers as a table and as text
    timings        how long earlier runs took, for the time left
    words          errors in plain words

Nothing of ours that takes long to load is imported before the page is up.
"""
