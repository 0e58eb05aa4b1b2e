// The program of docs/tutorial.md: `tutorial FOLDER RUN STEPS CLASS...` trains a recurrent net on FOLDER/images and the
// masks in FOLDER/labels, whose values of the classes are listed: `tutorial mydata run 1000 0 255`.
#include "settle/data/image_folder.hpp"
#include "settle/data/transforms.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/settle.hpp"
#include "settle/train/held_out.hpp"
#include "settle/train/report.hpp"
#include "settle/train/solve_figures.hpp"
#include "settle/train/trainer.hpp"

using namespace settle;

using Net = RecurrentNet<SquaringStem<float>, HgruCell<float>, BatchNormReadout<float>>;
constexpr int recurrent_steps = 10;

Net initial_net(Index classes) {
  const Index orientations = 8, channels = 2 * orientations + 1, kernel = 5;
  ParameterStreams random(1);
  return {.stem = SquaringStem<float>::initial(orientations, random),
          .cell = HgruCell<float>::initial(channels, kernel, random, Initialisation::corrected),
          .readout = BatchNormReadout<float>::initial(channels, random, classes)};
}

Objective<Var<float>> loss(const Net& model, const Batch& batch) {
  const Rbp policy{{.stop = fixed_point::Steps{.count = recurrent_steps},
                    .adjoint = fixed_point::Neumann{.max_products = 6, .rtol = 0.1},
                    .penalty = fixed_point::Lcp{.lambda = 0.9, .two_sided = true},
                    .on_fail = fixed_point::OnFail::report}};
  const auto result = run(model, Var(batch.image), policy);
  const Var<float> mistakes = pixel_loss(result.logits, batch.target, batch.ignore);
  return {penalised(mistakes, result.penalty),
          [=] { return figures_of(static_cast<double>(result.penalty.item()), result.report, 0); }};
}

double f1(const Net& net, const DataSet& images, int steps) {
  Loader<> loader(images, {.batch = 1, .shuffle = false, .endless = false});
  ConfusionMatrix counts(net.readout.conv6.weight.shape(0));
  while (!loader.done()) {
    const Batch batch = loader.next();
    counts.add(predict(net, Var(batch.image), steps).value(), batch.target, batch.ignore);
  }
  return counts.f1();
}

ExitCode train(const std::string& data, const std::string& run_folder, Index steps, std::vector<std::string> classes) {
  const DataSet all = cached(ImageFolder(data, {.classes = classes}), 1 << 30);
  const Index tenth = (all.size() + 9) / 10, rest = all.size() - 3 * tenth;
  const DataSet training = all.range(0, rest), validation = all.range(rest, tenth);
  const DataSet held_out = all.range(rest + tenth, 2 * tenth);

  const auto count = static_cast<Index>(classes.size());
  Net net = initial_net(count);
  TrainerOptions options{.batch = 4, .steps = steps};
  options.optimiser.rate = 0.003, options.schedule.kind = "cosine";
  const auto folder = std::make_shared<RunFolder>(run_folder);
  Trainer trainer(net, options, folder, true);
  trainer.transforms = {transforms::pad(64, 64), transforms::random_crop(64, 64), transforms::random_flip()};
  trainer.validate = [&](const Net& now) { return Figures{{"f1", f1(now, validation, recurrent_steps)}}; };
  if (trainer.train(training, loss) == TrainingEnd::preempted) return ExitCode::preempted;

  trainer.load_best();
  write_json(folder->summary(), {{"f1", f1(net, held_out, recurrent_steps)},
                                 {"f1_at_3x_steps", f1(net, held_out, 3 * recurrent_steps)}});
  record_held_out<Cpu>(net, held_out, {.steps = recurrent_steps, .classes = count}, folder->records());
  write_report({folder->path()}, folder->report());
  return ExitCode::done;
}

int main(int count, char** words) {
  return run_program([&] {
    if (count < 6) throw UsageError("expected: tutorial FOLDER RUN STEPS CLASS CLASS...");
    return train(words[1], words[2], std::stoll(words[3]), {words + 4, words + count});
  });
}
