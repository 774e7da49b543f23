"""The result store: what has been computed for a record is kept, so that a repeat after a crash computes nothing.

It only ever saves work. A store that is full, locked, damaged or away costs a warning and a metric; records are
computed as if there were none, and it is used again as soon as it answers.

To see that on a running worker, give the store a small disk of its own and fill it::

    mount -t tmpfs -o size=4m tmpfs /mnt/results     # then start it with MILLRACE_RESULTS__STORE=sqlite:/mnt/results/db
    cat /dev/zero >/mnt/results/ballast              # full: outcomes go on, millrace_result_store_errors_total grows
    rm /mnt/results/ballast                          # used again within 5 s: millrace_result_store_puts_total grows
"""
