#include "sample.h"

#include <math.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

namespace qwen3 {
namespace {

constexpr size_t kChunk = 128;  // logits that are passed over together if the largest of them says so

struct Candidate {
  float score, weight;
  int64_t id;
};

// A beginning of the ranking.
struct Cut {
  size_t count;
  double mass;
};

// Logits in buckets of falling weight, of which only those that are looked into are put in order, as far as is needed.
class Ranking {
 public:
  Ranking(const Kernels& kernels, const float* logits, size_t num_logits)
      : kernels_(*kernels.sampling), logits_(logits), num_logits_(num_logits) {
    for (size_t first = 0; first < num_logits; first += kChunk) {
      maxima_.push_back(kernels_.largest(logits + first, std::min(kChunk, num_logits - first)));
      if (!(maxima_.back() <= top_)) top_ = maxima_.back();
      if (top_ != top_) break;
    }
  }

  // NaN if any logit is.
  float top() const { return top_; }

  int64_t argmax() const {
    const size_t chunk = static_cast<size_t>(std::find(maxima_.begin(), maxima_.end(), top_) - maxima_.begin());
    return std::find(logits_ + chunk * kChunk, logits_ + num_logits_, top_) - logits_;
  }

  // Must come before what follows. What cannot be among the first `count`, unless it is 0, may be left out.
  void fill(float temperature, size_t count) {
    temperature_ = temperature;
    if (count > 0 && count <= maxima_.size()) {
      std::vector<float> maxima = maxima_;
      std::nth_element(maxima.begin(), maxima.begin() + (count - 1), maxima.end(), std::greater<float>());
      floor_ = maxima[count - 1];
    }
    for (size_t chunk = 0; chunk < maxima_.size(); ++chunk) {
      if (maxima_[chunk] < floor_) continue;
      const Weighed its = weigh(chunk);
      for (size_t i = 0; i < its.count; ++i) {
        masses_[its.buckets[i]][i % kParts] += its.weights[i];
        ++counts_[its.buckets[i]][i % kParts];
      }
    }
  }

  // The longest beginning of which keeps(what is before, candidate) is true. is_whole(bucket, what its end is before)
  // may say at once that a bucket is kept.
  template <class IsWhole, class Keeps>
  Cut cut(IsWhole&& is_whole, Keeps&& keeps) const {
    Cut before{0, 0};
    int32_t bucket = 0;
    for (; bucket <= kLastBucket; ++bucket) {
      const Cut after{before.count + count_of(bucket), before.mass + mass_of(bucket)};
      if (!is_whole(bucket, after)) break;
      before = after;
    }
    for (; bucket <= kLastBucket; ++bucket) {
      // A heap and no sort: the last bucket may hold most of the vocabulary, of which a few are looked at.
      std::vector<Candidate> heap = candidates_in(bucket);
      for (std::make_heap(heap.begin(), heap.end(), is_after); !heap.empty(); heap.pop_back()) {
        const Candidate& first = heap.front();
        if (!keeps(before, first)) return before;
        before = {before.count + 1, before.mass + first.weight};
        std::pop_heap(heap.begin(), heap.end(), is_after);
      }
    }
    return before;
  }

 private:
  struct Weighed {
    int32_t buckets[kChunk];
    float weights[kChunk];
    size_t count;
  };

  Weighed weigh(size_t chunk) const {
    Weighed its;
    its.count = std::min(kChunk, num_logits_ - chunk * kChunk);
    kernels_.weigh(logits_ + chunk * kChunk, its.count, temperature_, top_ / temperature_, its.buckets, its.weights);
    return its;
  }

  // Whether all of the chunk is in later buckets; computed as the kernel does, so that rounding is the same.
  bool is_behind(int32_t bucket, size_t chunk) const {
    return (top_ / temperature_ - maxima_[chunk] / temperature_) * kBucketsPerDepth >= static_cast<float>(bucket + 1) &&
           bucket < kLastBucket;
  }

  double mass_of(int32_t bucket) const { return std::accumulate(masses_[bucket], masses_[bucket] + kParts, 0.0); }
  size_t count_of(int32_t bucket) const {
    return std::accumulate(counts_[bucket], counts_[bucket] + kParts, size_t{0});
  }

  static bool is_after(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score < b.score : a.id > b.id;
  }

  std::vector<Candidate> candidates_in(int32_t bucket) const {
    std::vector<Candidate> candidates(count_of(bucket));
    size_t num_found = 0;
    for (size_t chunk = 0; chunk < maxima_.size() && num_found < candidates.size(); ++chunk) {
      if (maxima_[chunk] < floor_ || is_behind(bucket, chunk)) continue;
      const Weighed its = weigh(chunk);
      for (size_t i = 0; i < its.count; ++i) {
        if (its.buckets[i] != bucket) continue;
        const size_t id = chunk * kChunk + i;
        candidates[num_found++] = {logits_[id] / temperature_, its.weights[i], static_cast<int64_t>(id)};
      }
    }
    return candidates;
  }

  const SamplingKernels& kernels_;
  const float* logits_;
  size_t num_logits_;
  float top_ = -INFINITY, floor_ = -INFINITY, temperature_ = 1;
  std::vector<float> maxima_;  // of each chunk
  // In parts: most of a vocabulary is in the last bucket, and a sum in memory would wait for the one before it.
  static constexpr size_t kParts = 4;
  double masses_[kLastBucket + 1][kParts] = {};
  size_t counts_[kLastBucket + 1][kParts] = {};
};

}  // namespace

int64_t draw(const Kernels& kernels, const float* logits, size_t num_logits, const Sampling& sampling) {
  Ranking ranking(kernels, logits, num_logits);
  if (!std::isfinite(ranking.top())) return -1;
  if (sampling.temperature == 0 || !std::isfinite(ranking.top() / sampling.temperature)) return ranking.argmax();

  const size_t top_k = sampling.top_k < num_logits ? sampling.top_k : 0;
  ranking.fill(sampling.temperature, top_k);
  Cut kept = ranking.cut([&](int32_t, Cut after) { return !top_k || after.count <= top_k; },
                         [&](Cut before, const Candidate&) { return before.count < top_k; });
  const auto shorten = [&kept](Cut other) { kept = other.count < kept.count ? other : kept; };
  if (sampling.top_p < 1) {
    const double limit = sampling.top_p * kept.mass;
    shorten(ranking.cut([&](int32_t, Cut after) { return after.mass < limit; },
                        [&](Cut before, const Candidate&) { return before.mass < limit; }));
  }
  if (sampling.min_p > 0) {
    const double bucket_of_limit = -log(sampling.min_p) * kBucketsPerDepth;
    shorten(ranking.cut([&](int32_t bucket, Cut) { return bucket + 2 < bucket_of_limit && bucket < kLastBucket; },
                        [&](Cut, const Candidate& candidate) { return candidate.weight >= sampling.min_p; }));
  }

  const double target = sampling.noise * kept.mass;
  int64_t drawn = -1;
  ranking.cut([&](int32_t, Cut after) { return after.mass <= target && after.count < kept.count; },
              [&](Cut before, const Candidate& candidate) {
                if (candidate.score == -INFINITY) return false;  // banned: rounding must not lead here
                drawn = candidate.id;
                return before.mass + candidate.weight <= target && before.count + 1 < kept.count;
              });
  return drawn;
}

void largest(const Kernels& kernels, const float* logits, size_t num_logits, size_t count, int64_t* ids) {
  Ranking ranking(kernels, logits, num_logits);
  ranking.fill(1, count);
  ranking.cut([](int32_t, Cut) { return false; },
              [&](Cut before, const Candidate& candidate) {
                if (before.count == count) return false;
                ids[before.count] = candidate.id;
                return true;
              });
}

}  // namespace qwen3
