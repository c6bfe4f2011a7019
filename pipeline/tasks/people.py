"""First names that most readers take for a woman's or a man's. Knows words alone."""

from pipeline.tasks.base import listed

WOMEN = listed("""
    Jessica Ashley Jennifer Amanda Sarah Stephanie Nicole Heather Elizabeth Megan Melissa Rachel Laura Lauren Kimberly
    Amy Michelle Emily Rebecca Samantha Katherine Andrea Mary Lisa Katie Vanessa Christine Allison Lily Anna Mia Lucy
    Jane Sally Emma Alice Julia Helen Susan Linda Barbara Maria Karen Nancy Sophie Olivia Victoria Diana Margaret
    """)
MEN = listed("""
    Michael Christopher Matthew Joshua Daniel David James Robert John Joseph Andrew Ryan Brandon Jason Justin William
    Jonathan Brian Nicholas Anthony Eric Adam Kevin Steven Thomas Timothy Richard Jeffrey Benjamin Mark Aaron Charles
    Jacob Stephen Patrick Nathan Paul Tyler Scott Gregory Kenneth Alexander Jack Bob Tom Ben Peter George Edward Henry
    """)
