"""Many problems: a JSON object a line in, a JSON object a line out.

problems   one line of each kind: what is asked, what is answered, and why not
pools      where problems are worked on: local processes, a cluster, any executor
many       which problem goes when, and which answer comes out next
generated  random valid problems of every operation
"""
