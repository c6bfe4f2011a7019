"""Where items are computed: a worker per model replica, in this process or as Ray actors. Ray stays here."""
