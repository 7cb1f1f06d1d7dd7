"""The clinician's page, `data-owner ui`: served on this machine, to this machine's browser, and to nobody else.

    server      starts it: address, token, uvicorn
    security    who may speak to it: token, cookie, Host, Origin, headers
    pages       routes of the page itself
    history_pages  those of the history
    answering   how handlers answer and fail
    workplace   what the page knows: entries, the model, the stock, progress
    reading     a file that was dropped -> an entry's pictures
    runner      the thread that computes: one session at a time
    history     what this workstation keeps of its answers
    timings     how long earlier runs took, for the time left
    words       errors in plain words

Nothing of ours that takes long to load is imported before the page is up.
"""
