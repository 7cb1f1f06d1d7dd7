"""Reading hostile files apart: in a process that holds no secret and may do nothing but compute.

`reader` asks from this side, `warm` forks a child for each file, `confinement` says what the child may do, and
`messages` what it may answer.
"""
