#include "ranks_training.hpp"

#include "settle/train/segmentation.hpp"

using namespace settle;

TrainingEnd train_in_double(const SegmentationOptions& options, const std::shared_ptr<RunFolder>& folder,
                            const distributed::Group& ranks) {
  using V = Var<double>;
  using Net = HgruNet<double>;
  const SegmentationData data = open_data(options);
  Net net = hgru_net<double>(options.model_options());
  Trainer<Net, double> trainer(net, options.train, folder, true, ranks);
  trainer.show_progress = false;
  trainer.transforms = training_transforms(options);
  return trainer.train(data.training, [&](const Net& model, const BatchOf<double>& batch) {
    const auto [policy, penalty_weight] = options.policy_at(trainer.step());
    const auto result = run(model, V(batch.image), std::get<Rbp>(policy));
    const V loss = focal_loss(result.logits, batch.target, options.loss.gamma);
    return Objective<V>{penalised(loss, result.penalty, penalty_weight),
                        [penalty = result.penalty, report = result.report] {
                          return figures_of(penalty.item(), report, 0);
                        }};
  });
}
