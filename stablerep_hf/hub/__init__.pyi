from .dataset_card import (
    dataset_facts as dataset_facts,
    render_dataset_card as render_dataset_card,
    write_dataset_card as write_dataset_card,
)
from .facts import (
    DatasetFacts as DatasetFacts,
    Form as Form,
    LicensedPart as LicensedPart,
    ModelFacts as ModelFacts,
    TrainingData as TrainingData,
    load_facts as load_facts,
    save_facts as save_facts,
)
from .model_card import (
    describe_encoder as describe_encoder,
    model_index_results as model_index_results,
    render_model_card as render_model_card,
    write_model_card as write_model_card,
)
from .publication import Publication as Publication, plan_publication as plan_publication
from .publishing import publish as publish
from .space import assemble_space as assemble_space
