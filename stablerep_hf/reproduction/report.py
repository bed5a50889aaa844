def write_study(study, output): return output
def verdicts_table(): pass
class Study:
    def __init__(self,*a): pass
