"""shimproxy and faulty receivers in threads of their own, for programs that know nothing of trio.

What a thread has to tell, or fails of, reaches whoever waits for it. Nothing outlives the block that began it.
"""
